"""What a run leaves behind: metrics, curves, rollouts, and where they go."""
