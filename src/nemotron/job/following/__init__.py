"""What a framework writes while it trains, told in our words."""
