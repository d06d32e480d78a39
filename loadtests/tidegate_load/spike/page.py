"""The report's page, a Jinja template; the values come from `report.py`."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tidegate: the spike</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #33373d; background: #fff; max-width: 1200px;
         margin: 2rem auto; padding: 0 1.25rem; }
  h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
  table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .4rem .75rem .4rem 0;
         border-bottom: 1px solid #e4e7ea; vertical-align: top; font-variant-numeric: tabular-nums; }
  thead th { border-bottom: 2px solid #b8bec5; } tbody th { font-weight: 400; color: #5b636c; }
  img { width: 100%; height: auto; } .kept { color: #2a7f9e; } .broken { color: #cf4a3c; font-weight: 600; }
  .lead { color: #5b636c; margin-top: 0; } ul { padding-left: 1.2rem; } code { font-size: .92em; }
  .scroll { overflow-x: auto; }
</style>
</head>
<body>
<h1>The spike</h1>
<p class="lead">Hundreds of Lambda invocations at once against one PostgreSQL. Every caller invokes again as soon
as it has its answer.</p>

<div class="scroll"><table>
<thead><tr><th></th>{% for run in runs %}<th>{{ run.title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for question, answers in rows %}
<tr><th scope="row">{{ question }}</th>{% for answer in answers %}<td>{{ answer }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>

{% if promises %}
<h2>What was promised</h2>
<div class="scroll"><table>
<tbody>
{% for promise in promises %}
<tr><td class="{{ 'kept' if promise.kept else 'broken' }}">{{ 'kept' if promise.kept else 'broken' }}</td>
<td>{{ promise.text }}</td><td>{{ promise.seen }}</td></tr>
{% endfor %}
</tbody>
</table></div>
{% endif %}

<h2>Over time</h2>
<p class="lead">One column per run; a row has the same scale throughout. Each point of rates and percentiles
stands for one second; latency is the caller's and counts failed invocations too. Connections are sampled several
times a second from <code>pg_stat_activity</code>, the sampler's own included.</p>
<img alt="Per run: invocations per second, errors by kind, latency percentiles, open database connections
against max_connections, cold starts, invocations in flight" src="data:image/png;base64,{{ picture }}">

<h2>Errors by kind</h2>
{% for run in runs %}
<p><strong>{{ run.title }}</strong>: {% if run.errors %}
{% for kind, count in run.errors.items() %}
{{ '{:,}'.format(count) }} {{ kind }}{{ '' if loop.last else ' · ' }}
{% endfor %}
{% else %}none{% endif %}</p>
{% endfor %}

<h2>What was run</h2>
{% for run in runs %}
<p><strong>{{ run.title }}</strong>:
{% for key, value in run.parameters.items() %}
{{ key }} {{ value }}{{ '' if loop.last else ' · ' }}
{% endfor %}
{% for key, value in run.cpu_seconds.items() %}
{% if loop.first %}<br>CPU seconds: {% endif %}
{{ key }} {{ '%.1f' % value }}{{ '' if loop.last else ' · ' }}
{% endfor %}</p>
{% endfor %}

{% if links %}
<h2>More</h2>
<ul>
{% for target, label in links %}<li><a href="{{ target }}">{{ label }}</a></li>
{% endfor %}
</ul>
{% endif %}
</body>
</html>
"""
