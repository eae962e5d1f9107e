"""What `--tensorboard` writes for TensorBoard: the callback, the event files and the computation graph."""
