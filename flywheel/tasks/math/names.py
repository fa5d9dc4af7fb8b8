"""People's first names, by the pronoun that follows them in a story. None of them is also a word or a month."""

from __future__ import annotations

import random
import re


def _listed(names: str) -> tuple[str, ...]:
    return tuple(names.split(" "))


HER = _listed(
    "Alice Amanda Amelia Amy Andrea Angela Anna Annie Ashley Barbara Beth Betty Brenda Carla Carmen Caroline "
    "Catherine Charlotte Cheryl Chloe Christina Cindy Claire Cynthia Daisy Danielle Deborah Diana Donna "
    "Dorothy Elena Elizabeth Ella Ellen Emily Emma Erica Erin Esther Eva Evelyn Fiona Gabriela Gloria Hannah "
    "Heather Helen Isabella Jane Janet Jasmine Jen Jenna Jennifer Jessica Jill Joanna Joyce Judy Julia Julie "
    "Karen Kate Katie Kayla Kelly Kim Kimberly Kylie Laura Lauren Leah Linda Lisa Lucy Lydia Maddie Madison "
    "Mandy Margaret Maria Marie Martha Mary Megan Melanie Melissa Mia Michelle Molly Monica Nancy Naomi "
    "Natalia Natalie Nicole Nina Nora Olivia Pamela Patricia Paula Rachel Rebecca Sally Samantha Sandra Sara "
    "Sarah Sharon Sheila Sophia Sophie Stacy Stephanie Susan Tania Tanya Tara Teresa Tiffany Tina Toula "
    "Vanessa Veronica Wendy Weng Zoe"
)
HIS = _listed(
    "Aaron Adam Alan Albert Alexander Andrew Anthony Arnold Arthur Ben Benjamin Bob Brad Brandon Brian Bruce "
    "Bryan Caleb Carl Carlos Charles Chris Christopher Connor Craig Dan Daniel Dave David Dennis Derek "
    "Derrick Donald Doug Dylan Eddie Edward Elijah Eric Ethan Fernando Fred Gary George Greg Gregory Harold "
    "Harry Henry Howard Ian Isaac Ivan Jacob Jake James Jared Jason Jeff Jeffrey Jeremy Jerry Jesse Jim Jimmy "
    "Joe John Johnny Jonathan Jose Joseph Josh Joshua Juan Justin Keith Ken Kenny Kevin Kyle Larry Leo "
    "Leonard Liam Logan Louis Lucas Luis Luke Marcus Martin Marvin Matt Matthew Michael Mike Mitchell Nathan "
    "Nicholas Noah Oliver Oscar Patrick Paul Pedro Peter Philip Phillip Ralph Randy Raymond Ricardo Richard "
    "Robert Roger Ron Ronald Ryan Samuel Scott Sean Simon Stephen Steve Steven Ted Thomas Tim Timothy Tobias "
    "Todd Tom Tommy Tony Travis Tyler Victor Vincent Walter Zach"
)
_NAME = re.compile(r"(?<![\w-])[A-Z][a-z]+(?![\w-])")


def renamed(text: str, rng: random.Random) -> dict[str, str]:
    """New names for the people of a text, of the same kind and none of them in it already."""
    present = list(dict.fromkeys(_NAME.findall(text)))
    new: dict[str, str] = {}
    for names in (HER, HIS):
        mine = [name for name in present if name in names]
        free = [name for name in names if name not in present and name not in new.values()]
        new |= dict(zip(mine, rng.sample(free, len(mine)), strict=True)) if len(mine) <= len(free) else {}
    return new


def rename(text: str, new: dict[str, str]) -> str:
    """The text with the new names."""
    return _NAME.sub(lambda match: new.get(match.group(), match.group()), text)
