"""Bedside formulas with a numeric answer. Units are those printed in each question."""

from decimal import Decimal

from medgrpo.data.clinical.topic import SEX, Formula, Topic, span

D = Decimal


def devine_base(sex: Decimal) -> Decimal:
    """Body weight in kg at 60 inches (152.4 cm), for Devine's formula and ARDSNet's; `sex` is 1 for a man."""
    return D("50") if sex else D("45.5")


def clearance(age: Decimal, sex: Decimal, kg: Decimal, cr: Decimal) -> Decimal:
    """Creatinine clearance in mL/min (Cockcroft & Gault 1976); `cr` in mg/dL, `sex` is 1 for a man."""
    return (140 - age) * kg / (72 * cr) * (1 if sex else D("0.85"))


def tidal_volume(sex: Decimal, cm: Decimal, dose: Decimal) -> Decimal:
    """Tidal volume in mL at `dose` mL per kg of predicted body weight (ARDSNet 2000)."""
    return (devine_base(sex) + D("0.91") * (cm - D("152.4"))) * dose


BODY: tuple[Topic, ...] = (
    Formula(
        name="body-mass-index", citation="Keys A et al. J Chronic Dis 1972;25:329-343",
        axes=(span("kg", "42", "150"), span("m", "1.48", "2.00", "0.01")),
        ask="An adult weighs {kg} kg and is {m} m tall. What is the body mass index, to one decimal place?",
        compute=lambda kg, m: kg / m**2, where=lambda kg, m: 15 <= kg / m**2 <= 55,
        steps={"square": lambda kg, m: m**2},
        work="BMI = weight / height². {m}² = {square}; {kg} / {square} = {gold}.",
        unit="kg/m²", digits=1, tolerance="0.1",
    ),
    Formula(
        name="ideal-body-weight", citation="Devine BJ. Gentamicin therapy. Drug Intell Clin Pharm 1974;8:650-655",
        axes=(SEX, span("inches", "60.5", "80.0", "0.5")),
        ask="A {sex} is {inches} inches tall. What is the ideal body weight by Devine, to one decimal place?",
        compute=lambda sex, inches: devine_base(sex) + D("2.3") * (inches - 60),
        steps={"base": lambda sex, inches: devine_base(sex), "over": lambda sex, inches: inches - 60},
        work="Devine: {base} kg plus 2.3 kg for each inch over 60. {base} + 2.3 × {over} = {gold}.",
        unit="kg", digits=1, tolerance="0.1",
    ),
    Formula(
        name="body-surface-area", citation="Mosteller RD. N Engl J Med 1987;317:1098",
        axes=(span("cm", "145", "200"), span("kg", "42", "140", "2")),
        ask="Height {cm} cm, weight {kg} kg. What is the body surface area by Mosteller, to two decimals?",
        compute=lambda cm, kg: (cm * kg / 3600).sqrt(), where=lambda cm, kg: 15 <= kg * 10000 / cm**2 <= 50,
        steps={"ratio": lambda cm, kg: D(cm * kg / 3600).quantize(D("0.001"))},
        work="Mosteller: square root of height × weight / 3600. {cm} × {kg} / 3600 = {ratio}; its root is {gold}.",
        unit="m²", digits=2, tolerance="0.02",
    ),
    Formula(
        name="tidal-volume", citation="ARDS Network. N Engl J Med 2000;342:1301-1308",
        axes=(SEX, span("cm", "154", "200"), span("dose", "4", "8")),
        ask="A {sex} is {cm} cm tall. Give the tidal volume for {dose} mL per kg of ARDSNet predicted body weight, "
        "to the nearest mL.",
        compute=tidal_volume,
        steps={
            "base": lambda sex, cm, dose: devine_base(sex),
            "pbw": lambda sex, cm, dose: devine_base(sex) + D("0.91") * (cm - D("152.4")),
        },
        work="Predicted weight = {base} + 0.91 × ({cm} - 152.4) = {pbw} kg; {pbw} × {dose} = {gold} mL.",
        unit="mL", tolerance="2",
    ),
    Formula(
        name="parkland", citation="Baxter CR, Shires T. Ann N Y Acad Sci 1968;150:874-894",
        axes=(span("kg", "40", "120"), span("burn", "20", "75")),
        ask="An adult of {kg} kg has burns over {burn}% of the body. How much fluid in the first 24 hours "
        "by the Parkland formula (4 mL)?",
        compute=lambda kg, burn: 4 * kg * burn, steps={"four": lambda kg, burn: 4 * kg},
        work="Parkland: 4 mL × weight × percent burned. 4 × {kg} = {four}; {four} × {burn} = {gold} mL.",
        unit="mL", tolerance="0.5",
    ),
    Formula(
        name="mean-arterial-pressure", citation="Sesso HD et al. Hypertension 2000;36:801-807",
        axes=(span("sbp", "84", "200", "2"), span("dbp", "44", "120", "2")),
        ask="Blood pressure is {sbp}/{dbp} mmHg. What is the mean arterial pressure, to the nearest mmHg?",
        compute=lambda sbp, dbp: (sbp + 2 * dbp) / 3, where=lambda sbp, dbp: 24 <= sbp - dbp <= 90,
        steps={"sum": lambda sbp, dbp: sbp + 2 * dbp},
        work="Mean pressure = (systolic + 2 × diastolic) / 3. {sbp} + 2 × {dbp} = {sum}; {sum} / 3 = {gold}.",
        unit="mmHg", tolerance="0.5",
    ),
    Formula(
        name="qtc-bazett", citation="Bazett HC. An analysis of the time-relations of electrocardiograms. "
        "Heart 1920;7:353-370",
        axes=(span("qt", "300", "480", "4"), span("rr", "0.50", "1.20", "0.02")),
        ask="QT is {qt} ms and the RR interval {rr} s. What is the QTc by Bazett, to the nearest ms?",
        compute=lambda qt, rr: qt / rr.sqrt(), where=lambda qt, rr: 340 <= qt / rr.sqrt() <= 580,
        steps={"root": lambda qt, rr: rr.sqrt()},
        work="QTc = QT / square root of RR. The root of {rr} is {root}; {qt} / {root} = {gold} ms.",
        unit="ms", tolerance="3",
    ),
)  # fmt: skip

BLOOD: tuple[Topic, ...] = (
    Formula(
        name="anion-gap", citation="Emmett M, Narins RG. Medicine (Baltimore) 1977;56:38-54",
        axes=(span("na", "126", "152"), span("cl", "90", "114"), span("hco3", "6", "30")),
        ask="Sodium {na}, chloride {cl}, bicarbonate {hco3} mmol/L. What is the anion gap, without potassium?",
        compute=lambda na, cl, hco3: na - cl - hco3, where=lambda na, cl, hco3: 4 <= na - cl - hco3 <= 36,
        steps={"sum": lambda na, cl, hco3: cl + hco3},
        work="Anion gap = sodium - (chloride + bicarbonate). {cl} + {hco3} = {sum}; {na} - {sum} = {gold}.",
        unit="mmol/L", tolerance="0.5",
    ),
    Formula(
        name="corrected-calcium", citation="Albumin adjustment after Payne RB et al. BMJ 1973;4:643-646, "
        "with the coefficient printed in the question",
        axes=(span("ca", "6.5", "12.5", "0.1"), span("alb", "1.5", "3.9", "0.1")),
        ask="Total calcium is {ca} mg/dL, albumin {alb} g/dL. Corrected calcium, with 0.8 mg/dL for each g/dL of "
        "albumin under 4.0, to two decimals?",
        compute=lambda ca, alb: ca + D("0.8") * (4 - alb),
        steps={"lack": lambda ca, alb: 4 - alb, "add": lambda ca, alb: D("0.8") * (4 - alb)},
        work="4.0 - {alb} = {lack}; 0.8 × {lack} = {add}; {ca} + {add} = {gold}.",
        unit="mg/dL", digits=2, tolerance="0.05",
    ),
    Formula(
        name="corrected-sodium", citation="Katz MA. N Engl J Med 1973;289:843-844",
        axes=(span("na", "116", "146"), span("glucose", "200", "1000", "25")),
        ask="Sodium is {na} mmol/L, glucose {glucose} mg/dL. Corrected sodium, with 1.6 for each 100 mg/dL of glucose "
        "over 100, to one decimal place?",
        compute=lambda na, glucose: na + D("1.6") * (glucose - 100) / 100,
        steps={
            "over": lambda na, glucose: (glucose - 100) / 100,
            "add": lambda na, glucose: D("1.6") * (glucose - 100) / 100,
        },
        work="({glucose} - 100) / 100 = {over}; 1.6 × {over} = {add}; {na} + {add} = {gold}.",
        unit="mmol/L", digits=1, tolerance="0.05",
    ),
    Formula(
        name="osmolality", citation="Worthley LIG et al. Anaesth Intensive Care 1987;15:199-202",
        axes=(span("na", "122", "160", "2"), span("urea", "3", "32"), span("glucose", "4", "50", "2")),
        ask="Sodium {na}, urea {urea}, glucose {glucose} mmol/L. What is the calculated osmolality (2 × sodium + urea "
        "+ glucose)?",
        compute=lambda na, urea, glucose: 2 * na + urea + glucose, steps={"twice": lambda na, urea, glucose: 2 * na},
        work="2 × {na} = {twice}; {twice} + {urea} + {glucose} = {gold}.",
        unit="mmol/kg", tolerance="0.5",
    ),
    Formula(
        name="ldl-friedewald", citation="Friedewald WT, Levy RI, Fredrickson DS. Clin Chem 1972;18:499-502",
        axes=(span("tc", "130", "300", "5"), span("hdl", "28", "80", "2"), span("tg", "60", "390", "15")),
        ask="Total cholesterol {tc}, HDL {hdl}, triglycerides {tg} mg/dL. What is the LDL cholesterol by Friedewald?",
        compute=lambda tc, hdl, tg: tc - hdl - tg / 5, where=lambda tc, hdl, tg: 40 <= tc - hdl - tg / 5 <= 230,
        steps={"fifth": lambda tc, hdl, tg: tg / 5},
        work="LDL = total - HDL - triglycerides / 5. {tg} / 5 = {fifth}; {tc} - {hdl} - {fifth} = {gold}.",
        unit="mg/dL", tolerance="0.5",
    ),
    Formula(
        name="homa-ir", citation="Matthews DR et al. Diabetologia 1985;28:412-419",
        axes=(span("glucose", "4.0", "9.9", "0.1"), span("insulin", "4", "40")),
        ask="Fasting glucose {glucose} mmol/L, insulin {insulin} µU/mL. What is HOMA-IR (product / 22.5), "
        "to one decimal place?",
        compute=lambda glucose, insulin: glucose * insulin / D("22.5"),
        steps={"product": lambda glucose, insulin: glucose * insulin},
        work="{glucose} × {insulin} = {product}; {product} / 22.5 = {gold}.",
        unit="", digits=1, tolerance="0.05",
    ),
    Formula(
        name="alveolar-gradient", citation="Alveolar gas equation: Fenn WO, Rahn H, Otis AB. Am J Physiol "
        "1946;146:637-653",
        axes=(span("pco2", "20", "60", "4"), span("po2", "36", "104")),
        ask="Room air: PaO2 {po2}, PaCO2 {pco2} mmHg. What is the alveolar-arterial oxygen gradient, with alveolar "
        "oxygen = 150 - PaCO2 / 0.8?",
        compute=lambda pco2, po2: 150 - pco2 / D("0.8") - po2,
        where=lambda pco2, po2: 4 <= 150 - pco2 / D("0.8") - po2 <= 75,
        steps={"part": lambda pco2, po2: pco2 / D("0.8"), "alveolar": lambda pco2, po2: 150 - pco2 / D("0.8")},
        work="{pco2} / 0.8 = {part}; alveolar oxygen 150 - {part} = {alveolar}; {alveolar} - {po2} = {gold}.",
        unit="mmHg", tolerance="0.5",
    ),
)  # fmt: skip

ORGANS: tuple[Topic, ...] = (
    Formula(
        name="creatinine-clearance", citation="Cockcroft DW, Gault MH. Nephron 1976;16:31-41",
        axes=(span("age", "24", "90", "3"), SEX, span("kg", "45", "110", "5"), span("cr", "0.6", "3.4", "0.2")),
        ask="A {sex} aged {age} weighs {kg} kg, creatinine {cr} mg/dL. What is the Cockcroft-Gault clearance, "
        "to the nearest mL/min?",
        compute=clearance, where=lambda *patient: 8 <= clearance(*patient) <= 160,
        steps={
            "years": lambda age, sex, kg, cr: 140 - age,
            "factor": lambda age, sex, kg, cr: D("1" if sex else "0.85"),
        },
        work="140 - {age} = {years}; {years} × {kg} / (72 × {cr}) × {factor} for a {sex} = {gold}.",
        unit="mL/min", tolerance="1",
    ),
    Formula(
        name="fractional-sodium-excretion", citation="Espinel CH. JAMA 1976;236:579-581",
        axes=(span("una", "5", "100", "5"), span("pna", "130", "146", "4"), span("ucr", "20", "200", "20"),
              span("pcr", "1.0", "6.0", "0.5")),
        ask="Urine sodium {una}, plasma sodium {pna} mmol/L; urine creatinine {ucr}, plasma creatinine {pcr} mg/dL. "
        "What is the fractional excretion of sodium in percent, to one decimal place?",
        compute=lambda una, pna, ucr, pcr: 100 * una * pcr / (pna * ucr),
        where=lambda una, pna, ucr, pcr: D("0.1") <= 100 * una * pcr / (pna * ucr) <= 12,
        steps={"top": lambda una, pna, ucr, pcr: una * pcr, "bottom": lambda una, pna, ucr, pcr: pna * ucr},
        work="{una} × {pcr} = {top}; {pna} × {ucr} = {bottom}; 100 × {top} / {bottom} = {gold}.",
        unit="%", digits=1, tolerance="0.05",
    ),
    Formula(
        name="maddrey", citation="Maddrey's discriminant function as in Carithers RL et al. Ann Intern Med "
        "1989;110:685-690",
        axes=(span("pt", "13.0", "28.0", "0.5"), span("control", "11", "13"), span("bili", "3", "30")),
        ask="Alcoholic hepatitis: prothrombin time {pt} s, control {control} s, bilirubin {bili} mg/dL. What is "
        "Maddrey's discriminant function, to one decimal place?",
        compute=lambda pt, control, bili: D("4.6") * (pt - control) + bili,
        where=lambda pt, control, bili: pt - control >= 1,
        steps={
            "longer": lambda pt, control, bili: pt - control,
            "part": lambda pt, control, bili: D("4.6") * (pt - control),
        },
        work="{pt} - {control} = {longer}; 4.6 × {longer} = {part}; {part} + bilirubin {bili} = {gold}.",
        unit="points", digits=1, tolerance="0.05",
    ),
)  # fmt: skip
