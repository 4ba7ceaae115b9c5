"""From raw scans to what the network takes."""
