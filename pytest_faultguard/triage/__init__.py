"""What people do with a crash: pure functions over types."""
