"""What is wrong for every row, found before anything is sent."""
