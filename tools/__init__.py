"""What the agent may do to pixels: media, frames of reference, the six tools."""
