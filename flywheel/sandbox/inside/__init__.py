"""What runs inside the sandbox. Nothing here imports the rest of flywheel, which is not there to be imported."""
