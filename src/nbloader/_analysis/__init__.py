"""Compare loads: the runs so far, the forecast for the next load, and the diagnosis of a slow one."""
