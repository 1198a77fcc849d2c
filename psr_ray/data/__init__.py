"""Problems and judged pairs: where they come from, how answers are graded, the rows they travel as."""
