"""`cuchar corpus`: what a text is made of, what a model of it has to beat, and what to clean first."""
