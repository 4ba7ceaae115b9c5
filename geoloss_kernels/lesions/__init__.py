"""The application: lesions in, lesions out. Reading images, training a network, predicting, evaluating.

Rooms, from the ground up: `imaging` (files and registration), `subjects` (which files belong together),
`preprocessing`, `training`, `prediction`, `evaluation`, `lga`, `reporting`, `datasets`, `demo`, `study`. Each
imports only what is named before it; `cli` lists the commands.
"""
