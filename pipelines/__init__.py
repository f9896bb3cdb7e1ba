"""What each task is and why; the loop lives in medseg."""
