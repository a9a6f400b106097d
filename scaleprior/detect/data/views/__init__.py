"""What people see of a detection set: statistics, a page with boxes drawn, folders for other tools."""
