"""What answers a picture: prompts, engines that complete them, and the vision-language model behind them."""
