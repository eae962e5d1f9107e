"""What the cells of a trained model do on a text, as one HTML page: `cuchar look`."""
