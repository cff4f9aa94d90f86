-- When sales ended, so that what is left of their lines can be removed. Owner: admission.

create view admission.public_ended as
select event_id,
       case when (settings->>'closed')::boolean then updated_at
            else greatest(updated_at, (settings->>'closes_at')::timestamptz)
       end as ended_at
from admission.sales
where (settings->>'closed')::boolean or settings->>'closes_at' is not null;
comment on view admission.public_ended is 'For waiting-room: when each sale ends or ended. One that was changed lately may open again, so the time of the change counts.';
