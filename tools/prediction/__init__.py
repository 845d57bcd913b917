"""What `detector predict` reads and writes."""
