"""What the system keeps: trajectory values, replay, layouts, published weights."""
