"""Time steps, thermostats, and segments that are committed one by one."""
