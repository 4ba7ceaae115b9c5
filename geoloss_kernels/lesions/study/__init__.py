"""The experiment of Zhang et al., ISBI 2021, as `geoloss reproduce` repeats it."""
