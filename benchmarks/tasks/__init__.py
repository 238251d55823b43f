"""What is predicted: tasks, their windows and start states."""
