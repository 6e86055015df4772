"""The page that shows a run or an evaluation: its curves, its groups, its episodes."""
