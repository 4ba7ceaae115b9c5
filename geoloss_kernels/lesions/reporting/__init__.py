"""Pictures and tables of results, for every command that reports them."""
