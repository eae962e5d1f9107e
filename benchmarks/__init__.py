"""The scripts that measure the published figures; README.md lists them."""
