"""Scripts behind the published figures; `gpu.py` is `make gpu`."""
