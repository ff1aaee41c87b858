"""From scores to masks: exact counts, allocations, schedules, blocks and N:M."""
