"""A callback that keeps what a run tells its user."""

from cuchar.callbacks import Callback


class Notes(Callback):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)
