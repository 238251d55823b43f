"""FlashMD: metatrain's network, steps it learns from, and the model."""
