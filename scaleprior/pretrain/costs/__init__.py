"""What a pretraining run will cost, before it is paid for."""
