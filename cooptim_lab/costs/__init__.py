"""What communication costs: formulas, and what is measured to put into them."""
