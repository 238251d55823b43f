"""The commands of `tg80`, one module each: options in, a call, a table or JSON out."""
