"""Who turns trajectories into weights: advantages, losses, the learner."""
