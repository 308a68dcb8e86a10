"""Published numbers with their source (published.csv)."""
