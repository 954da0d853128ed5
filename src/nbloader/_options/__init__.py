"""The options of a load, and the code that reads them."""
