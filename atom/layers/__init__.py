"""The layers of ATOM."""
