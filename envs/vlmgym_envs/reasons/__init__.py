"""Why a move is right, in sentences: one module per kind of game, each claim of which holds on the board.

A module reads the board as a player does and asks the rules; chance decides only how a fact is worded. Facts are
written in one form, whatever the words around them: a cell as "(0, 2)", a tile by its name, a leg of a way as
"right to (4, 4)".
"""
