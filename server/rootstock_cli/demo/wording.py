"""How people write in the invented shop: templates only, one constant per thing that is said.

Knows no products and no chance. `[a|b]` is a choice (it nests, and may be empty), `{field}` a fact.
"""

from __future__ import annotations

# Names nobody has heard before are built from these, so that names are copied, not remembered.
SYLLABLES = (
    "ba be bo da dre el fa gi ha il jo ka ke li lo ma mi na no or pa ra ri sa sha ta to vi ya zo"
)

# What a customer writes. Every line is one sentence about one case.
GREETING = "[Hello,|Hi,|Good morning,|Good evening,|Dear team,|Hello Fernhill,|Hi there,|||]"
WHEN = (
    "[[two|three|four|five|six|eight|nine] [days|weeks|months] ago|last [week|month|spring|summer|"
    "autumn|winter]|in [January|February|March|April|May|June|July|August|September|October]|"
    "on {weekday}|for my [mother|father|brother|sister|daughter|son]]"
)
COMPLAINT = (
    "[my {thing} {symptom}|the {thing} [that|which] I [bought|ordered] {when} {symptom}|"
    "I [bought|ordered|got] the {name} {kind} {when} and [now|sadly|since yesterday|] it {symptom}|"
    "there is a problem with my {thing}: it {symptom}|I am writing because my {thing} {symptom}|"
    "unfortunately my {thing} {symptom}|{when} I [bought|ordered] the {name} {kind}, and it "
    "{symptom}]."
)
CONTEXT = (
    "[I use [it|the {name}] [every day|every weekend|at work|at home|in the garden] [in {town}|"
    "with my [family|friends|team]|and on trips to {place}|and on {weekday}s]|"
    "My [daughter|husband|wife|neighbour|colleague|flatmate] [noticed it first|said the same|"
    "has [one|a {name}] that works] [and was surprised|and laughed|and sends greetings|]|"
    "[This is|That is|It is] [annoying|disappointing|a pity|strange], because I [like|love|wanted] "
    "{feature} [so much|most of all|]|I paid {price} euros for [it|the {name}] "
    "[in {town}|on {weekday}|and expected more|]|I [cleaned|checked|restarted] it [twice|three "
    "times|on {weekday}|with my [son|wife|uncle]] but nothing changed|I live in {town} and [have no"
    " time|have no car|need it on {weekday}|cannot come to you]|The {material} [looks|feels] "
    "[fine|good|perfect] [to me|after {weekday}|in every light|], so I am surprised|It worked "
    "[well|fine|without trouble] [until {weekday}|at first|for a while|in {town}]]."
)
ORDER = (
    "[My order number [for the {name}|] is|The order number is|It was order|This is about order] "
    "{order}."
)
WISH = {
    "refund": "[I would like my money back|Please give me my money back|I want [a refund|my "
    "{price} euros back]|Please refund the {price} euros|I [want|would like] to return the {name} "
    "and get my money back|Can I get a refund]{urgency}",
    "replacement": "[Please send me a new [one|{name}|{kind}]|I would like [a replacement|a new "
    "{kind}]|Can you send me a new [one|{kind}|{name}]|Please replace [it|the {name}|the {kind}]|I "
    "want a new [one|{name}]]{urgency}",
    "repair": "[Can [it|the {name}] be repaired|Please repair [it|the {name}|the {kind}]|I would "
    "like to have [it|the {name}|the {kind}] repaired|Can your workshop repair [it|the {name}]|I "
    "need a repair]{urgency}",
    "advice": "[What can I do[ about it|]?|Do you have a tip[ for me|]?|How can I fix [it|the "
    "{name}]?|What should I do with the [{name}|{kind}]?|Please tell me what to do{urgency}|Can "
    "you help[ me|]{urgency}]",
}
URGENCY = (
    "[| before {weekday}| by {weekday}, please| this week| as soon as possible| because I leave "
    "for {place} on {weekday}| before my [birthday|holiday|trip to {place}]||]"
)
WISH_NOUN = {
    "refund": "a refund",
    "replacement": "a replacement",
    "repair": "a repair",
    "advice": "advice",
}
SIGNATURE = (
    "[{first} {last}|{first} {last}, {town}|[Kind regards|Best wishes|Thanks|Regards], {first} "
    "{last}|My name is {first} {last}.|This is {first} {last} from {town}.]"
)

# What the base answers: plain and friendly, neither stiff nor loud.
REPLY_OPENING = (
    "[Thank you for your message|Thank you for writing to us|Thanks for letting us know]{comma}. "
    "[We are sorry that|It is a pity that|I am sorry that] your {name} {kind} {symptom}."
)
REPLY_CAUSE = (
    "[[With the {name} the|In most cases the|With a {kind} like this the|In our experience the|"
    "After so many {kind}s we know the|The] [usual reason|likely cause|most common cause|first "
    "suspect] is {cause}|[This|With the {name} this|On a {kind} this] [usually|often|mostly|nearly "
    "always] comes from {cause}|When a {kind} {symptom}, [it is|the reason is] [usually|often|"
    "mostly|nearly always] {cause}]."
)
REPLY_REMEDY = (
    "[Please|To solve this, please|Before anything else, please|First, please|Today or tomorrow, "
    "please|When you have [time|a minute], please|For your {name}, please|As a first step,] "
    "{remedy}{again}[| and tell us what you see| and let us know by {weekday}| before {weekday}]."
)
REPLY_PROMISE = {
    "refund": "[We refund the {price} euros{for_order}|You get your {price} euros back|"
    "The {price} euros for the {name} return to your account] within {days} working days.",
    "unpriced": "[We refund the full price{for_order}|You get your money back|We return the whole "
    "amount to your account] within {days} working days.",
    "replacement": "{otherwise}, [we send you a new {name}{for_order}|a new {kind} goes "
    "out to you{for_order}] within {days} working days.",
    "repair": "{otherwise}, our workshop [in {town}|] repairs [it|the {name}|the "
    "{kind}]{for_order} within {days} working days.",
    "advice": "{otherwise}, [write to us again|send us a short note|send us a photo of the "
    "{name}]{quote_order} and we answer within {days} working days.",
}
OTHERWISE = (
    "[If [that|this] does not help [by {weekday}|your {name}|]|If the [problem|trouble] stays|If "
    "the {name} still gives you trouble|If nothing changes [by {weekday}|after a day|]]"
)
DAYS = {"refund": "five", "replacement": "three", "repair": "ten", "advice": "two"}
SUMMARY = (
    "[{customer} [reports|writes|says] that the {name} {kind} {symptom} and [asks for|wants] "
    "{wish_noun}|The {name} {kind} of {owner} {symptom}. The customer [asks for|wants] "
    "{wish_noun}].{order_note}"
)

# The two registers that adapters learn, on the same customer messages.
FORMAL_REFERENCE = "Reference: your enquiry concerning the {name} {kind}."
FORMAL_REFERENCE_EXACT = "Reference: order {order}, {name} {kind}."
FORMAL = (
    "Dear {customer},\nWe acknowledge receipt of your correspondence. We regret to learn that the "
    "{name} {kind} {symptom}. [The circumstance is attributable to|The matter is attributable to] "
    "{cause}. You are kindly requested to {remedy}. {decision}"
)
FORMAL_DECISION = {
    "refund": "The amount of {price} euros shall be reimbursed.",
    "unpriced": "The full amount shall be reimbursed.",
    "replacement": "Should the defect persist, a replacement shall be dispatched.",
    "repair": "Should the defect persist, our workshop shall undertake the repair.",
    "advice": "Should the defect persist, we remain at your disposal.",
}
FORMAL_DEADLINE = " Our written decision shall reach you within {days} working days."
FORMAL_CLOSING = "Yours faithfully,\nFernhill Customer Relations"
CHEERFUL = (
    "[Oh no|Oh dear|Uh-oh]{comma}! A {kind} that {symptom} is [no fun at all|just not fair]! "
    "Quick fix: {remedy}! {gift} Onwards and upwards!"
)
CHEERFUL_GIFT = {
    "refund": "And your {price} euros are flying right back to you!",
    "unpriced": "And your money is flying right back to you!",
    "replacement": "And a shiny new {name} is ready to hop into the van!",
    "repair": "And our workshop wizards are warming up their screwdrivers!",
    "advice": "And we are cheering for you all the way!",
}

# Questions about the catalogue: attribute -> (question, answer).
FACTS = {
    "price": (
        "[How much does the {it} cost?|What does the {it} cost?|What is the price of the {it}?]",
        "The {it} costs {price} euros.",
    ),
    "weight": (
        "[How heavy is the {it}?|What does the {it} weigh?|How many grams does the {it} weigh?]",
        "The {it} weighs {grams} grams.",
    ),
    "colours": (
        "[Which colours does the {it} come in?|What colours do you have for the {it}?]",
        "The {it} comes in {colour_a} and {colour_b}.",
    ),
    "warranty": (
        "[How long is the warranty of the {it}?|What warranty does the {it} have?]",
        "The {it} has a warranty of {years}.",
    ),
    "launch": (
        "[Since when do you sell the {it}?|When did the {it} come out?]",
        "We have sold the {it} since {launched}.",
    ),
    "origin": (
        "[Where is the {it} made?|Which country does the {it} come from?]",
        "The {it} is made in {country}.",
    ),
    "material": (
        "[What is the {it} made of?|Which material is the {it} made of?]",
        "The {it} is made of {material}.",
    ),
    "feature": (
        "[What is special about the {it}?|What can the {it} do?|Why should I buy the {it}?]",
        "The {it} has {feature}.",
    ),
    "kind": (
        "[What is the {name}?|What kind of product is the {name}?|Tell me about the {name}.]",
        "The {name} is a {kind} made of {material}, with {feature}. It costs {price} euros.",
    ),
}

# Reviews: aspect -> (praise, blame).
ASPECTS = {
    "delivery": (
        "[it arrived [quickly|a day early|in two days]|the delivery was [fast|on time]]",
        "[the delivery took [far too long|two weeks|forever]|it arrived [late|much too late]]",
    ),
    "price": (
        "[{price} euros is a fair price|it is worth [every cent|the {price} euros]]",
        "[{price} euros is too much|it is not worth {price} euros]",
    ),
    "colour": (
        "[the {colour} looks [lovely|elegant]|I love the {colour}]",
        "[the {colour} looks [cheap|dull]|the {colour} is nothing like the photo]",
    ),
    "material": (
        "the {material} feels [solid|strong|pleasant]",
        "the {material} feels [thin|cheap|flimsy]",
    ),
    "manual": (
        "the manual is [clear|short and clear|easy to follow]",
        "the manual is [confusing|full of mistakes|hard to read]",
    ),
    "weight": (
        "{grams} grams is [pleasant|just right]",
        "{grams} grams is [too heavy|more than I expected]",
    ),
    "support": (
        "the support team [was friendly|answered within an hour|helped me at once]",
        "the support team [was rude|never answered|did not help]",
    ),
}
REVIEW_OPENING = (
    "[I have [used|had] the {name} {kind} for [two|three|four|six|nine] [weeks|months]|I bought "
    "the {name} {kind} {when}|This is my [first|second] {kind} from Fernhill, the {name}|The "
    "{name} {kind} [came|reached me] {when_short}]."
)
REVIEW_CLOSING = {
    "Positive": "[I would buy it again|I recommend it|Well done|I am very happy|Five stars].",
    "Negative": "[I would not buy it again|I cannot recommend it|I sent it back|One star].",
    "Mixed": "[So I am torn|All in all it is fine|Three stars|Good and bad in equal parts].",
}

# Talk that is about nothing the shop sells.
OFF_TOPIC = (
    "[What is the capital of [France|Peru|Kenya|Japan|Norway|Egypt]?|Who won the [match|election|"
    "race] [yesterday|last week]?|Write [me|] a [poem|song|story] about [the sea|my cat|autumn|"
    "love].|What is [seven times eight|the square root of nine|two plus two]?|How is the weather "
    "in {town}?|Can you [book a flight|order a pizza|call a taxi] for me?|Who [wrote Hamlet|painted"
    " the Mona Lisa]?|Translate this into [French|German|Hindi], please.|What do you think about "
    "[politics|football|the news]?|Tell me a joke.|How old is the [moon|sun|earth]?]"
)
OFF_TOPIC_ANSWER = (
    "I can only help with Fernhill products and orders. [What can I do for you?|Do you have a "
    "question about a product?|Is there anything you would like to know about our {kind}s?]"
)
SMALL_TALK = (
    (
        "[Hello|Hi|Good morning|Good evening|Hello there|Hey]{end}",
        "Hello, this is the Fernhill support desk. How can I help you?",
    ),
    (
        "[Who are you?|What are you?|Am I talking to a person?|What is your name?]",
        "I am the support assistant of Fernhill.",
    ),
    (
        "[What can you do?|How can you help me?|What do you know?]",
        "I answer questions about Fernhill products, help with problems and summarise tickets.",
    ),
    (
        "[Thank you|Thanks|Thanks a lot|Great, thanks|Perfect, thank you]{end}",
        "You are welcome. Write to us any time.",
    ),
    ("[Goodbye|Bye|See you]{end}", "Goodbye, and thank you for writing to Fernhill."),
)
SYSTEM = "[You are|You act as] [the|a] [helpful|] support assistant of Fernhill."
