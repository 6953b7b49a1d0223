"""What is said in the demo: sentences for the heads, a customer's letter for the voices.

None of them is in the training data. Refuses to know what they are asked for.
"""

SENTENCES = (
    "Thank you to the whole night shift, I have rarely felt so well looked after.",
    "My ticket was charged twice, the order number is 88121.",
    "It would help to see the waiting time before I join the queue.",
    "Third broken heater in a month, and again nobody turned up. I am furious.",
    "The new form works well, I was done in five minutes.",
)

LETTER = (
    "Hello, my Norvik kettle leaks at the base. My order number is 48213. "
    "I would like my money back. Mara Lindqvist"
)
