"""How far a prediction can be trusted, learnt from cases that the networks did not see.

observer      what the logits of one case say, in one pass over finished slabs
calibration   one temperature, so that a probability of 0.9 is right nine times in ten
conformal     intervals that hold at a stated rate
quality       Dice and volume of each structure, with such intervals
image         what an input looks like, in a few numbers
outlier       is it like the training cases?
fit           all of it, from the out-of-fold cases; `Trust` is what a model folder keeps
verdict       one "look at this one" per case, in short sentences
"""
