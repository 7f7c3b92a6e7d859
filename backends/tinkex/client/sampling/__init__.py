"""The sampling client: samples that can be repeated, clones, samplers in a run's session."""
