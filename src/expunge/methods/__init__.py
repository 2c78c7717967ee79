"""Subject + task -> what to optimise or edit. Every file below is one plug-in."""
