"""The look of the report: one style sheet, no font or image from elsewhere."""

STYLE = """
:root { --ink:#1b1f24; --soft:#5b6570; --paper:#ffffff; --card:#f5f7f9; --edge:#d5dbe1; --link:#005a9c;
  --good:#00674a; --bad:#b3261e; --grey:#9aa3ab; --c0:#000000; --c1:#d55e00; --c2:#0072b2; --c3:#009e73;
  --c4:#b8860b; --c5:#3aa0d8; --c6:#cc79a7; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ec; --soft:#9aa5b0; --paper:#14181c; --card:#1c2228;
  --edge:#39424c; --link:#7cc4ff; --good:#4fd1a5; --bad:#ff8f85; --grey:#6b7680; --c0:#ffffff; --c1:#ff9248;
  --c2:#56b4e9; --c3:#2fcf9f; --c4:#f0e442; --c5:#8fd0ff; --c6:#e6a3cb; } }
@media print { :root { --ink:#000; --soft:#444; --paper:#fff; --card:#fff; --edge:#bbb; --link:#000;
  --good:#00674a; --bad:#b3261e; --grey:#aaa; --c0:#000; --c1:#d55e00; --c2:#0072b2; --c3:#009e73;
  --c4:#b8860b; --c5:#3aa0d8; --c6:#cc79a7; }
  nav { display:none }
  details::details-content { content-visibility:visible } figure, tr { break-inside:avoid } }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink); font:16px/1.5 system-ui,sans-serif }
header, main { max-width:1120px; margin:0 auto; padding:0 20px }
header { padding-top:28px; border-bottom:1px solid var(--edge); padding-bottom:12px }
header p { color:var(--soft); margin:0 0 8px }
h1 { font-size:1.7rem; margin:0 0 4px } h2 { font-size:1.35rem; margin:44px 0 12px }
h3 { font-size:1.05rem; margin:26px 0 8px } article { margin:0 0 40px } nav a { margin-right:18px }
a { color:var(--link) } code, pre { font:14px/1.5 ui-monospace,monospace }
pre { background:var(--card); border:1px solid var(--edge); padding:12px; white-space:pre-wrap }
.wide { overflow-x:auto } table { border-collapse:collapse; width:100%; font-size:15px }
th, td { text-align:left; vertical-align:top; padding:5px 12px 5px 0; border-bottom:1px solid var(--edge) }
th { color:var(--soft); font-weight:600; white-space:nowrap } .n { text-align:right; white-space:nowrap }
td.n { font-variant-numeric:tabular-nums } td.lines { white-space:pre-line }
td.key { white-space:nowrap; width:1% }
.verdict { font-weight:600; white-space:nowrap } td.met { color:var(--good) } .missed { color:var(--bad) }
td.met::before { content:"\\2713\\00a0" } td.missed::before { content:"\\2717\\00a0" }
td.unclear { color:var(--soft) } td.unclear::before { content:"?\\00a0" }
.absent, .small, figcaption { color:var(--soft); font-size:14px }
.notes { padding-left:20px; color:var(--soft) }
figure { margin:16px 0; padding:12px; background:var(--card); border:1px solid var(--edge);
  border-radius:6px }
figure figure { border:0; padding:0; margin:0 } figure h3 { margin:0 0 10px } figcaption { margin-top:8px }
img { max-width:100%; height:auto; background:#fff }
summary { cursor:pointer; color:var(--link); margin-top:10px }
svg { display:block; width:100%; height:auto } svg text { fill:var(--ink) }
"""
