"""From a cohort on disk to augmented training patches."""
