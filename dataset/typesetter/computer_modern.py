"""What the outlines of Computer Modern do not say: italic corrections, accent positions, heights, font dimensions.

Source: the TeX font metric files of cmr10, cmmi10, cmsy10, cmex10, cmsy7, cmsy5, cmex7 (Knuth, Computer Modern
Typefaces, 1986), rounded to 0.001 em, by the PostScript names that the outlines use.
"""

from typing import NamedTuple


def _numbers(table: str) -> dict[str, float]:
    """`name number name number ...` as a dict."""
    words = table.split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


# How far the top of a letter leans out of its advance width (The TeXbook, appendix G, rules 17 and 18).
ITALIC = {
    "cmr10": _numbers("""
        ff 0.078   V 0.014   W 0.014   Y 0.025   f 0.078   g 0.014   v 0.014   w 0.014   y 0.014   endash 0.028
        emdash 0.028
    """),
    "cmmi10": _numbers("""
        Gamma 0.139   Theta 0.028   Xi 0.076   Pi 0.081   Sigma 0.058   Upsilon 0.139   Psi 0.11   Omega 0.05
        alpha 0.004   beta 0.053   gamma 0.056   delta 0.038   zeta 0.074   eta 0.036   theta 0.028   nu 0.064
        xi 0.046   pi 0.036   sigma 0.036   tau 0.113   upsilon 0.036   psi 0.036   omega 0.036   pi1 0.028
        sigma1 0.08   partialdiff 0.056   B 0.05   C 0.072   D 0.028   E 0.058   F 0.139   H 0.081   I 0.078
        J 0.096   K 0.072   M 0.109   N 0.109   O 0.028   P 0.139   R 0.008   S 0.058   T 0.139   U 0.109
        V 0.222   W 0.139   X 0.078   Y 0.222   Z 0.072   f 0.108   g 0.036   j 0.057   k 0.031   l 0.02
        q 0.036   r 0.028   v 0.036   w 0.027   y 0.036   z 0.044   vector 0.154   tie 0.399
    """),
    "cmsy10": _numbers("""
        B 0.03   C 0.058   D 0.028   E 0.089   F 0.099   G 0.059   H 0.01   I 0.074   J 0.185   K 0.014   N 0.147
        O 0.028   P 0.082   S 0.075   T 0.254   U 0.099   V 0.082   W 0.082   X 0.146   Y 0.082   Z 0.079
        integral 0.111
    """),
    "cmex10": _numbers("""
        contintegraltext 0.194   contintegraldisplay 0.444   integraltext 0.194   integraldisplay 0.444
    """),
}

# How far right of a letter's middle its accent stands: the kern with the font's skewchar (rule 12).
SKEW = {
    "cmmi10": _numbers("""
        Gamma 0.083   Delta 0.167   Theta 0.083   Lambda 0.167   Xi 0.083   Pi 0.056   Sigma 0.083
        Upsilon 0.056   Phi 0.083   Psi 0.056   Omega 0.083   alpha 0.028   beta 0.083   delta 0.056
        epsilon1 0.056   zeta 0.083   eta 0.056   theta 0.083   iota 0.056   mu 0.028   nu 0.028   xi 0.111
        rho 0.083   tau 0.028   upsilon 0.028   phi 0.083   chi 0.056   psi 0.111   epsilon 0.083   theta1 0.083
        rho1 0.083   sigma1 0.083   phi1 0.083   partialdiff 0.083   A 0.139   B 0.083   C 0.083   D 0.056
        E 0.083   F 0.083   G 0.083   H 0.056   I 0.111   J 0.167   K 0.056   L 0.028   M 0.083   N 0.083
        O 0.083   P 0.083   Q 0.083   R 0.083   S 0.083   T 0.083   U 0.028   X 0.083   Z 0.083   lscript 0.111
        c 0.056   d 0.167   e 0.056   f 0.167   g 0.028   h -0.028   l 0.083   o 0.056   p 0.083   q 0.083
        r 0.056   s 0.056   t 0.083   u 0.028   v 0.028   w 0.083   x 0.028   y 0.056   z 0.056   dotlessi 0.028
        dotlessj 0.083   weierstrass 0.111
    """),
    "cmsy10": _numbers("""
        A 0.194   B 0.139   C 0.139   D 0.083   E 0.111   F 0.111   G 0.111   H 0.111   I 0.028   J 0.167
        K 0.056   L 0.139   M 0.139   N 0.083   O 0.111   P 0.083   Q 0.111   R 0.083   S 0.139   T 0.028
        U 0.083   V 0.028   W 0.083   X 0.139   Y 0.083   Z 0.139
    """),
}

# Heights and depths, where TeX's differ from the ink: curves overshoot, and some signs count as high as their kin.
_EXTENTS = {
    "cmr10": {
        (0.0, 0.17): "cedilla",
        (0.431, 0.0): "dotlessi ae oe hyphen a c e m n o r s u v w",
        (0.431, 0.194): "dotlessj g p q y",
        (0.5, 0.194): "exclamdown questiondown",
        (0.528, 0.097): "oslash",
        (0.568, 0.0): "macron",
        (0.615, 0.0): "t",
        (0.628, 0.0): "caron",
        (0.644, 0.0): "zero one two three four five six seven eight nine",
        (0.668, 0.0): "dotaccent tilde dieresis",
        (0.668, 0.194): "j",
        (0.683, 0.0): "Delta Theta Lambda Upsilon Omega OE A C G J O R S U V W",
        (0.683, 0.194): "Q",
        (0.694, 0.0): """ff fi fl ffi ffl grave acute breve ring germandbls exclam quotedblright ampersand quoteright
            question at quotedblleft circumflex quoteleft b d f hungarumlaut""",
        (0.732, 0.049): "Oslash",
        (0.75, 0.0): "asterisk",
    },
    "cmmi10": {
        (0.358, -0.142): "slurbelow slurabove",
        (0.367, -0.133): "arrowlefttophalf arrowleftbothalf arrowrighttophalf arrowrightbothalf",
        (0.431, 0.0): """alpha epsilon1 iota kappa nu pi sigma tau upsilon omega epsilon pi1 zerooldstyle oneoldstyle
            twooldstyle a c e m n o r s u v w x z dotlessi""",
        (0.431, 0.097): "sigma1",
        (0.431, 0.194): """gamma eta mu rho chi rho1 phi1 threeoldstyle fouroldstyle fiveoldstyle sevenoldstyle
            nineoldstyle g p q y dotlessj weierstrass""",
        (0.464, -0.036): "arrowhookleft arrowhookright",
        (0.465, -0.035): "triangleright triangleleft star",
        (0.615, 0.0): "t",
        (0.644, 0.0): "sixoldstyle eightoldstyle",
        (0.66, 0.0): "i",
        (0.66, 0.194): "j",
        (0.683, 0.0): "Delta Theta Lambda Upsilon Omega A C G J O R S U V W",
        (0.683, 0.194): "Q",
        (0.694, 0.0): "delta theta lambda theta1 partialdiff lscript b d h k l tie",
        (0.694, 0.194): "beta zeta xi phi psi natural sharp f",
        (0.714, 0.0): "vector",
        (0.75, 0.0): "flat",
    },
    "cmsy10": {
        (0.367, -0.133): "arrowleft arrowright arrowboth arrowdblleft arrowdblright arrowdblboth mapsto",
        (0.431, 0.0): "proportional infinity logicalnot",
        (0.444, -0.056): "periodcentered diamondmath",
        (0.464, -0.036): "equivasymptotic",
        (0.483, -0.017): "approxequal",
        (0.539, 0.039): "lessmuch greatermuch",
        (0.556, 0.0): "prime union intersection unionmulti logicaland logicalor unionsq intersectionsq",
        (0.583, 0.083): "minus multiply divide plusminus minusplus",
        (0.683, 0.0): "A B C E F H K L M N O P R S T U V W nabla",
        (0.683, 0.097): "G J Q Y",
        (0.694, 0.0): "universal Rfractur Ifractur latticetop perpendicular",
        (0.694, 0.13): "club diamond heart spade",
        (0.694, 0.194): """circlecopyrt arrownortheast arrowsoutheast arrownorthwest arrowsouthwest triangle triangleinv
            negationslash wreathproduct integral section dagger daggerdbl""",
        (0.75, 0.056): "emptyset",
        (0.75, 0.25): "arrowbothv arrowdblbothv",
    },
    "cmex10": {
        (0.0, 0.6): "vextendsingle vextenddouble",
        (0.1, 1.5): """unionsqdisplay circledotdisplay circleplusdisplay circlemultiplydisplay summationdisplay
            productdisplay uniondisplay intersectiondisplay unionmultidisplay logicalanddisplay
            logicalordisplay coproductdisplay""",
        (0.12, 0.0): "bracehtipdownleft bracehtipdownright bracehtipupleft bracehtipupright",
        (0.722, 0.0): "hatwide tildewide",
        (0.75, 0.0): "hatwider hatwidest tildewider tildewidest",
    },
}
EXTENT = {
    font: {name: extent for extent, names in table.items() for name in names.split()}
    for font, table in _EXTENTS.items()
}

# At 7 and 5 points letters are drawn wider, not only smaller: width against the 10-point letter scaled down.
WIDENING = {  # text, script, scriptscript
    "cmr10": (1.0, 1.138, 1.34),
    "cmmi10": (1.0, 1.16, 1.42),
    "cmsy10": (1.0, 1.15, 1.40),
    "cmex10": (1.0, 1.15, 1.15),
}


class Dimensions(NamedTuple):
    """Font dimensions at one size, in em of that size (The TeXbook, appendix G: sigma and xi)."""

    quad: float
    num1: float  # numerators: display, text, text without a rule
    num2: float
    num3: float
    denom1: float  # denominators: display, text
    denom2: float
    sup1: float  # superscripts: display, text, cramped
    sup2: float
    sup3: float
    sub1: float  # subscripts: alone, below a superscript
    sub2: float
    sup_drop: float  # scripts of boxes, from their top and bottom
    sub_drop: float
    delim1: float  # delimiters of binomials: display, text
    delim2: float
    rule: float  # default_rule_thickness
    spacing5: float  # big_op_spacing5: beyond limits


# text (cmsy10, cmex10), script (cmsy7, cmex7), scriptscript (cmsy5, cmex7)
DIMENSIONS = tuple(
    Dimensions(*map(float, line.split()))
    for line in """
    1.0    0.6765 0.3937 0.4437 0.686  0.3448 0.4129 0.3629 0.2889 0.15   0.2472 0.3861 0.05   2.39 1.01   0.04   0.1
    1.1706 0.7323 0.3839 0.4712 0.7521 0.3442 0.5025 0.4311 0.2857 0.1429 0.2857 0.3532 0.0714 1.7  1.1571 0.0486 0.1429
    1.4722 0.9252 0.3875 0.5041 1.0252 0.5319 0.5036 0.4036 0.2944 0.2    0.4    0.4944 0.1    1.98 1.42   0.0486 0.1429
    """.strip().split("\n")
)
X_HEIGHT = 0.431
AXIS = 0.25
SPACING1, SPACING2, SPACING3, SPACING4 = 0.111, 0.167, 0.2, 0.6  # big_op_spacing: around limits
