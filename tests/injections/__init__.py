"""Known bugs, put into the program one at a time, to see that the regression check or a test notices each of them."""
