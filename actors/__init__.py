"""Who turns tasks into trajectories: worlds, rendering, the engine, the episode, scoring."""
