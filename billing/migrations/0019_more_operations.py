"""Img2img and redraw are for sale: where the newest price list has neither, the next one has both, priced as inpaint.

Price lists are never changed, so it is a new version; jobs keep the one that they were quoted with.
"""

from django.db import migrations

MORE_OPERATIONS = """
INSERT INTO billing_pricelistversion
    (version, base_cost, prompt_floor, service_classes, operations, skipped_step)
SELECT version + 1, base_cost, prompt_floor, service_classes,
       operations || jsonb_build_object(
           'img2img', coalesce(operations -> 'inpaint', '1000'), 'redraw', coalesce(operations -> 'inpaint', '1000')
       ),
       skipped_step
FROM (SELECT * FROM billing_pricelistversion ORDER BY version DESC LIMIT 1) AS newest
WHERE NOT operations ?| array['img2img', 'redraw'];
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0018_closed_months")]

    operations = [migrations.RunSQL(MORE_OPERATIONS, migrations.RunSQL.noop)]
