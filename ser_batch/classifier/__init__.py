"""The hybrid CNN: network, weights, prediction."""
