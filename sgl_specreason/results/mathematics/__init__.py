"""How answers are spelt and what they equal: text to one spelling, quantities, sets, values. Knows no grader and no process."""
