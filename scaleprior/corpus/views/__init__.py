"""What people see of a corpus: statistics, a page with sample images, folders for other tools."""
