"""The stage `prepare`: datasets in, labelled and proven token rows out.

``rows`` reads files, ``conversations`` makes conversations of them, ``rendering`` applies the chat template,
``labels`` finds and proves what the model is to learn, ``writing`` stores it; ``stage`` puts them together.
"""
