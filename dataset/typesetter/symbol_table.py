r"""What every symbol command stands for: `command code-point glyphs`, a line each, under the class that spaces it.

The code point finds the glyph in Unicode fonts. The glyphs are those of Computer Modern; where they are missing, it has
no such sign, and STIX lends its own. The fonts: r roman, mi math italic, sy symbols, ex extension. Several glyphs make
one sign: `+` sets them side by side (some have no width, so they overprint), `<` pulls them together by 3 mu
(\joinrel of plain TeX), `,` sets them apart by a thin space, `;` by a thick one, `~` lays the second over the middle of
the first.
"""

TABLE = r"""
# rel: Relations and arrows
:                        3A  r.colon
<                        3C  mi.less
=                        3D  r.equal
>                        3E  mi.greater
\arrowvert               7C  sy.bar
\leftarrow             2190  sy.arrowleft
\uparrow               2191  sy.arrowup
\rightarrow            2192  sy.arrowright
\downarrow             2193  sy.arrowdown
\leftrightarrow        2194  sy.arrowboth
\updownarrow           2195  sy.arrowbothv
\nwarrow               2196  sy.arrownorthwest
\nearrow               2197  sy.arrownortheast
\searrow               2198  sy.arrowsoutheast
\swarrow               2199  sy.arrowsouthwest
\nleftarrow            219A
\nrightarrow           219B
\twoheadleftarrow      219E
\twoheadrightarrow     21A0
\leftarrowtail         21A2
\rightarrowtail        21A3
\mapsto                21A6  sy.mapsto+sy.arrowright
\hookleftarrow         21A9  sy.arrowleft<mi.arrowhookright
\hookrightarrow        21AA  mi.arrowhookleft<sy.arrowright
\looparrowleft         21AB
\looparrowright        21AC
\leftrightsquigarrow   21AD
\nleftrightarrow       21AE
\Lsh                   21B0
\Rsh                   21B1
\curvearrowleft        21B6
\curvearrowright       21B7
\circlearrowleft       21BA
\circlearrowright      21BB
\leftharpoonup         21BC  mi.arrowlefttophalf
\leftharpoondown       21BD  mi.arrowleftbothalf
\upharpoonright        21BE
\upharpoonleft         21BF
\rightharpoonup        21C0  mi.arrowrighttophalf
\rightharpoondown      21C1  mi.arrowrightbothalf
\downharpoonright      21C2
\downharpoonleft       21C3
\rightleftarrows       21C4
\leftrightarrows       21C6
\leftleftarrows        21C7
\upuparrows            21C8
\rightrightarrows      21C9
\downdownarrows        21CA
\leftrightharpoons     21CB
\rightleftharpoons     21CC
\nLeftarrow            21CD
\nLeftrightarrow       21CE
\nRightarrow           21CF
\Leftarrow             21D0  sy.arrowdblleft
\Uparrow               21D1  sy.arrowdblup
\Rightarrow            21D2  sy.arrowdblright
\Downarrow             21D3  sy.arrowdbldown
\Leftrightarrow        21D4  sy.arrowdblboth
\Updownarrow           21D5  sy.arrowdblbothv
\Lleftarrow            21DA
\Rrightarrow           21DB
\rightsquigarrow       21DD
\dashleftarrow         21E0
\dashrightarrow        21E2
\in                    2208  sy.element
\notin                 2209  sy.element~mi.slash
\ni                    220B  sy.owner
\notni                 220C
\varpropto             221D  sy.proportional
\propto                221D  sy.proportional
\mid                   2223  sy.bar
\shortmid              2223
\nmid                  2224
\parallel              2225  sy.bardbl
\shortparallel         2225
\nparallel             2226
\therefore             2234
\because               2235
\thicksim              223C  sy.similar
\sim                   223C  sy.similar
\backsim               223D
\nsim                  2241
\eqsim                 2242
\simeq                 2243  sy.similarequal
\cong                  2245
\ncong                 2247
\thickapprox           2248  sy.approxequal
\approx                2248  sy.approxequal
\napprox               2249
\approxeq              224A
\asymp                 224D  sy.equivasymptotic
\Bumpeq                224E
\bumpeq                224F
\doteq                 2250
\doteqdot              2251
\fallingdotseq         2252
\risingdotseq          2253
\coloneqq              2254
\eqqcolon              2255
\eqcirc                2256
\circeq                2257
\triangleq             225C
\neq                   2260  sy.negationslash+r.equal
\equiv                 2261  sy.equivalence
\nequiv                2262
\leq                   2264  sy.lessequal
\geq                   2265  sy.greaterequal
\leqq                  2266
\geqq                  2267
\lneqq                 2268
\gneqq                 2269
\ll                    226A  sy.lessmuch
\gg                    226B  sy.greatermuch
\between               226C
\nless                 226E
\ngtr                  226F
\nleq                  2270
\ngeq                  2271
\lesssim               2272
\gtrsim                2273
\lessgtr               2276
\gtrless               2277
\prec                  227A  sy.precedes
\succ                  227B  sy.follows
\preccurlyeq           227C
\succcurlyeq           227D
\precsim               227E
\succsim               227F
\nprec                 2280
\nsucc                 2281
\subset                2282  sy.propersubset
\supset                2283  sy.propersuperset
\subseteq              2286  sy.reflexsubset
\supseteq              2287  sy.reflexsuperset
\nsubseteq             2288
\nsupseteq             2289
\subsetneq             228A
\supsetneq             228B
\sqsubset              228F
\sqsupset              2290
\sqsubseteq            2291  sy.subsetsqequal
\sqsupseteq            2292  sy.supersetsqequal
\vdash                 22A2  sy.turnstileleft
\dashv                 22A3  sy.turnstileright
\perp                  22A5  sy.perpendicular
\models                22A7  sy.bar<r.equal
\vDash                 22A8
\Vdash                 22A9
\Vvdash                22AA
\nvdash                22AC
\nvDash                22AD
\nVdash                22AE
\nVDash                22AF
\vartriangleleft       22B2
\vartriangleright      22B3
\trianglelefteq        22B4
\trianglerighteq       22B5
\multimap              22B8
\bowtie                22C8
\Join                  22C8
\backsimeq             22CD
\Subset                22D0
\Supset                22D1
\pitchfork             22D4
\lessdot               22D6
\gtrdot                22D7
\lll                   22D8
\ggg                   22D9
\lesseqgtr             22DA
\gtreqless             22DB
\curlyeqprec           22DE
\curlyeqsucc           22DF
\lnsim                 22E6
\gnsim                 22E7
\precnsim              22E8
\succnsim              22E9
\ntriangleleft         22EA
\ntriangleright        22EB
\ntrianglelefteq       22EC
\ntrianglerighteq      22ED
\frown                 2322
\smile                 2323
\blacktriangleright    25B6
\blacktriangleleft     25C0
\longleftarrow         27F5  sy.arrowleft<sy.minus
\longrightarrow        27F6  sy.minus<sy.arrowright
\longleftrightarrow    27F7  sy.arrowleft<sy.arrowright
\Longleftarrow         27F8  sy.arrowdblleft<r.equal
\impliedby             27F8  ;sy.arrowdblleft<r.equal;
\Longrightarrow        27F9  r.equal<sy.arrowdblright
\implies               27F9  ;r.equal<sy.arrowdblright;
\Longleftrightarrow    27FA  sy.arrowdblleft<sy.arrowdblright
\iff                   27FA  ;sy.arrowdblleft<sy.arrowdblright;
\longmapsto            27FC  sy.mapsto+sy.minus<sy.arrowright
\leqslant              2A7D
\geqslant              2A7E
\lessapprox            2A85
\gtrapprox             2A86
\lneq                  2A87
\gneq                  2A88
\lnapprox              2A89
\gnapprox              2A8A
\eqslantless           2A95
\eqslantgtr            2A96
\preceq                2AAF  sy.precedesequal
\succeq                2AB0  sy.followsequal
\precneqq              2AB5
\succneqq              2AB6
\precapprox            2AB7
\succapprox            2AB8
\subseteqq             2AC5
\supseteqq             2AC6
\subsetneqq            2ACB
\supsetneqq            2ACC

# bin: Binary operators
+                        2B  r.plus
\pm                      B1  sy.plusminus
\centerdot               B7  sy.periodcentered
\times                   D7  sy.multiply
\bigtimes                D7  sy.multiply
\div                     F7  sy.divide
\dagger                2020  sy.dagger
\ddagger               2021  sy.daggerdbl
-                      2212  sy.minus
\mp                    2213  sy.minusplus
\dotplus               2214
\setminus              2216  sy.backslash
\smallsetminus         2216
*                      2217  sy.asteriskmath
\ast                   2217  sy.asteriskmath
\circ                  2218  sy.openbullet
\bullet                2219  sy.bullet
\wedge                 2227  sy.logicaland
\vee                   2228  sy.logicalor
\cap                   2229  sy.intersection
\cup                   222A  sy.union
\wr                    2240  sy.wreathproduct
\uplus                 228E  sy.unionmulti
\sqcap                 2293  sy.intersectionsq
\sqcup                 2294  sy.unionsq
\oplus                 2295  sy.circleplus
\ominus                2296  sy.circleminus
\otimes                2297  sy.circlemultiply
\oslash                2298  sy.circledivide
\odot                  2299  sy.circledot
\circledcirc           229A
\circledast            229B
\circleddash           229D
\boxplus               229E
\boxminus              229F
\boxtimes              22A0
\boxdot                22A1
\lhd                   22B2
\rhd                   22B3
\unlhd                 22B4
\unrhd                 22B5
\intercal              22BA
\veebar                22BB
\barwedge              22BC
\diamond               22C4  sy.diamondmath
\cdot                  22C5  sy.periodcentered
\star                  22C6  mi.star
\divideontimes         22C7
\ltimes                22C9
\rtimes                22CA
\leftthreetimes        22CB
\rightthreetimes       22CC
\curlyvee              22CE
\curlywedge            22CF
\Cap                   22D2
\Cup                   22D3
\bigtriangleup         25B3  sy.triangle
\triangleright         25B9  mi.triangleright
\bigtriangledown       25BD  sy.triangleinv
\triangleleft          25C3  mi.triangleleft
\bigcirc               25EF  sy.circlecopyrt
\boxslash              29C4
\amalg                 2A3F  sy.coproduct
\doublebarwedge        2A5E

# ord: Ordinary signs
"                        22
\#                       23  r.numbersign
\$                       24  r.dollar
\%                       25  r.percent
\&                       26  r.ampersand
.                        2E  mi.period
/                        2F  mi.slash
@                        40  r.at
\backslash               5C  sy.backslash
\_                       5F
`                        60
|                        7C  sy.bar
\vert                    7C  sy.bar
\cent                    A2
\pounds                  A3
\yen                     A5
\S                       A7  sy.section
\copyright               A9
\neg                     AC  sy.logicalnot
\circledR                AE
\degree                  B0
\textdegree              B0
\P                       B6  sy.paragraph
\AE                      C6  r.AE
\O                       D8  r.Oslash
\ss                      DF  r.germandbls
\aa                      E5
\ae                      E6  r.ae
\eth                     F0
\o                       F8  r.oslash
\imath                  131  mi.dotlessi
\i                      131  r.dotlessi
\L                      141
\l                      142
\OE                     152  r.OE
\oe                     153  r.oe
\jmath                  237  mi.dotlessj
\j                      237  r.dotlessj
\|                     2016  sy.bardbl
\Vert                  2016  sy.bardbl
\lVert                 2016  sy.bardbl
\permil                2030
'                      2032  sy.prime
\prime                 2032  sy.prime
\backprime             2035
\euro                  20AC
\celsius               2103
\hbar                  210F
\hslash                210F
\Im                    2111  sy.Ifractur
\ell                   2113  mi.lscript
\wp                    2118  mi.weierstrass
\Re                    211C  sy.Rfractur
\mho                   2127
\Finv                  2132
\aleph                 2135  sy.aleph
\beth                  2136
\gimel                 2137
\daleth                2138
\Game                  2141
\forall                2200  sy.universal
\complement            2201
\partial               2202  mi.partialdiff
\exists                2203  sy.existential
\nexists               2204
\emptyset              2205  sy.emptyset
\varnothing            2205
\nabla                 2207  sy.nabla
\surd                  221A  sy.radical
\infty                 221E  sy.infinity
\angle                 2220
\measuredangle         2221
\sphericalangle        2222
\odotsign              2299
\top                   22A4  sy.latticetop
\bot                   22A5  sy.perpendicular
\circledS              24C8
\diagup                2571
\diagdown              2572
\blacksquare           25A0
\square                25A1
\Box                   25A1
\parallelogram         25B1
\triangle              25B3  sy.triangle
\blacktriangle         25B4
\vartriangle           25B5
\blacktriangledown     25BE
\triangledown          25BF
\Diamond               25CA
\lozenge               25CA
\bigstar               2605
\spadesuit             2660  sy.spade
\heartsuit             2661  sy.heart
\diamondsuit           2662  sy.diamond
\clubsuit              2663  sy.club
\flat                  266D  mi.flat
\natural               266E  mi.natural
\sharp                 266F  mi.sharp
\checkmark             2713
\maltese               2720
\blacklozenge          29EB
\Bbbk                 1D55C

# italic: Small Greek letters, which lean like Latin ones
\alpha                  3B1  mi.alpha
\beta                   3B2  mi.beta
\gamma                  3B3  mi.gamma
\delta                  3B4  mi.delta
\varepsilon             3B5  mi.epsilon
\zeta                   3B6  mi.zeta
\eta                    3B7  mi.eta
\theta                  3B8  mi.theta
\iota                   3B9  mi.iota
\kappa                  3BA  mi.kappa
\lambda                 3BB  mi.lambda
\mu                     3BC  mi.mu
\nu                     3BD  mi.nu
\xi                     3BE  mi.xi
\omicron                3BF  mi.o
\pi                     3C0  mi.pi
\rho                    3C1  mi.rho
\varsigma               3C2  mi.sigma1
\sigma                  3C3  mi.sigma
\tau                    3C4  mi.tau
\upsilon                3C5  mi.upsilon
\varphi                 3C6  mi.phi1
\chi                    3C7  mi.chi
\psi                    3C8  mi.psi
\omega                  3C9  mi.omega
\vartheta               3D1  mi.theta1
\phi                    3D5  mi.phi
\varpi                  3D6  mi.pi1
\digamma                3DD
\varkappa               3F0
\varrho                 3F1  mi.rho1
\epsilon                3F5  mi.epsilon1

# capital: Capital Greek letters, upright
\Gamma                  393  r.Gamma
\Delta                  394  r.Delta
\Theta                  398  r.Theta
\Lambda                 39B  r.Lambda
\Xi                     39E  r.Xi
\Pi                     3A0  r.Pi
\Sigma                  3A3  r.Sigma
\Upsilon                3A5  r.Upsilon
\Phi                    3A6  r.Phi
\Psi                    3A8  r.Psi
\Omega                  3A9  r.Omega

# punct: Punctuation
,                        2C  mi.comma
\ldotp                   2E  mi.period
\colon                   3A  r.colon
;                        3B  r.semicolon
\cdotp                   B7  sy.periodcentered

# open: Opening delimiters
(                        28  r.parenleft
[                        5B  r.bracketleft
\{                       7B  sy.braceleft
\lvert                   7C  sy.bar
\lVert                 2016  sy.bardbl
\lceil                 2308  sy.ceilingleft
\lfloor                230A  sy.floorleft
\ulcorner              231C
\llcorner              231E
\llbracket             27E6
\langle                27E8  sy.angbracketleft
\lgroup                27EE

# close: Closing delimiters, and what is spaced like them
!                        21  r.exclam
)                        29  r.parenright
?                        3F  r.question
]                        5D  r.bracketright
\rvert                   7C  sy.bar
\}                       7D  sy.braceright
\rVert                 2016  sy.bardbl
\rceil                 2309  sy.ceilingright
\rfloor                230B  sy.floorright
\urcorner              231D
\lrcorner              231F
\rrbracket             27E7
\rangle                27E9  sy.angbracketright
\rgroup                27EF

# inner: Ellipses
\ldots                 2026  mi.period,mi.period,mi.period
\vdots                 22EE
\cdots                 22EF  sy.periodcentered,sy.periodcentered,sy.periodcentered
\iddots                22F0
\ddots                 22F1

# op: Large operators: the form in text, then the form in display style
\prod                  220F  ex.producttext ex.productdisplay
\coprod                2210  ex.coproducttext ex.coproductdisplay
\sum                   2211  ex.summationtext ex.summationdisplay
\int                   222B  ex.integraltext ex.integraldisplay
\smallint              222B  sy.integral sy.integral
\iint                  222C
\iiint                 222D
\oint                  222E  ex.contintegraltext ex.contintegraldisplay
\oiint                 222F
\oiiint                2230
\bigwedge              22C0  ex.logicalandtext ex.logicalanddisplay
\bigvee                22C1  ex.logicalortext ex.logicalordisplay
\bigcap                22C2  ex.intersectiontext ex.intersectiondisplay
\bigcup                22C3  ex.uniontext ex.uniondisplay
\bigodot               2A00  ex.circledottext ex.circledotdisplay
\bigoplus              2A01  ex.circleplustext ex.circleplusdisplay
\bigotimes             2A02  ex.circlemultiplytext ex.circlemultiplydisplay
\biguplus              2A04  ex.unionmultitext ex.unionmultidisplay
\bigsqcup              2A06  ex.unionsqtext ex.unionsqdisplay
\iiiint                2A0C
"""
